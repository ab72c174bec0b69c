"""Everything in the caller's own process: `rostral.init(mode="inline")`, for tests and debuggers.

The store is a shared segment that nobody shares, so values, references, errors and task records are
the very ones of a cluster. What a cluster leaves to daemons and workers is done here by whoever
calls: a task runs in the thread that submits it, before `remote` returns, if its inputs are there
by then; else in the next thread that waits for anything. So a debugger shows the task's frames
below those that submitted it. An actor's calls run likewise, those of threaded and async actors in
threads of their own.
"""
