"""What process pools do when one step of many is hostile: ``python -m benchmarks.torture``.

::

    __main__   the command
    hosts      starts one fresh program per library and hostile step, ends it, looks what is left
    program      what that program does: drive the library, note each outcome      ┐ in a
    libraries    how each library is driven                                        │ process
    steps        the hostile steps and their siblings                              ┘ of its own
    verdicts   contained, or what else
    tables     the verdicts for a terminal and for a page
"""
