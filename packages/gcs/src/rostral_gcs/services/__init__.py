"""What every service of Rostral is made of, whatever it serves: its life, its settings, its units.

A daemon's package brings a configuration (a dataclass), a command and a folder ``units``; the rest
is here, once: ``life.py`` (signals, readiness, watchdog) over ``systemd.py``; ``settings.py``
(file, environment, flags) with ``kinds.py``, ``docs.py``, ``flags.py`` and ``reloading.py``;
``unit_files.py`` and ``commands.py`` (the commands ``config`` and ``systemd``);
``metrics_page.py`` (what Prometheus reads) and ``tls_server.py`` (TLS that follows its files).
"""
