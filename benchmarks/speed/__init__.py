"""What a step costs, here and elsewhere: ``python -m benchmarks.speed``.

::

    __main__   the command
    hosts      starts one fresh program per library and work, interleaved, and reads what it has measured
    program      what that program does: warm up, take the time, check the results      ┐
    libraries    which libraries there are                                              │ in a
    drivers      how each of them runs a graph                                          │ process
    works        the graphs                                                             │ of its
    functions    what their tasks do                                                    ┘ own
    results    medians, their spread, and ratios
    tables     the ratios for a terminal and for a page
"""
