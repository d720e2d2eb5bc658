"""What runs in a child process: a small package that imports little, so that a child starts fast.

``server`` reads assignments, runs and reports them · ``messages`` what it says to its program · ``housekeeper`` what is
done between two attempts · ``surroundings`` what a step may change in its process · ``seeds`` of random numbers ·
``loading`` whether its code is being loaded

For a worker of your own there is ``build_shared_dict``.
"""

from fuseline.attempt import SharedDict, build_shared_dict

__all__ = ["SharedDict", "build_shared_dict"]
