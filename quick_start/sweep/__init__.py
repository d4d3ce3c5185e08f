"""Carries a sweep out: what is to be done (plan), one run (work), all of them (engines).

A run is trained by :func:`~quick_start.sweep.work.train_run`, in this process or, handed over by an
executor, in another one. What happens there comes back through files of the session
(:mod:`~quick_start.sweep.mailbox`), so any executor will do whose workers see the session's folder.
"""
