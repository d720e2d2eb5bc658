"""OS processes and what connects them; knows nothing of steps, runs or policies.

``channel`` messages over a private pipe · ``stamp`` a few numbers in shared memory · ``child`` one child from start to
proven end · ``tree`` signals to a process and all it started · ``guardian`` the process that outlives this one to kill
its children, whose other half is ``guardian_main``.
"""
