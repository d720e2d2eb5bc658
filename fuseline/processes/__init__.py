"""OS processes and what connects them; knows nothing of steps, runs or policies.

``child`` one child from start to proven end · ``launch`` its start, whose other half is ``boot`` · ``inherited`` the
descriptors it gets · ``line`` what the two say to each other · ``outbox`` where the child puts most of it · ``shared``
memory for that · ``stamp`` a few numbers in shared memory · ``tickets`` who begins what waits · ``output`` what it
prints · ``memory`` what it uses · ``tree`` signals to a process and all it started · ``guardian`` the process that
outlives this one to kill its children, whose other half is ``guardian_main`` · ``on_import``, ``safe_path``, ``victim``
small things for processes that begin.
"""
