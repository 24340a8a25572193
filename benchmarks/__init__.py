"""The benchmark of `make bench`: it measures the gateway, as it is shipped, and others in one run, and reports ratios.

    __main__.py    the command            stage.py      the processes of a run  report.py   table and targets
    cases/         what is measured       gateways.py   the gateway             chart.py    the plot
    results.py     the numbers            peers.py      what it is compared with, with proxies.py
    native.py      compiles and runs native/upstream.c (the provider) and native/load.c (the callers)
    machine.py     cores, CPU time and memory      interpreters.py   which Python runs the gateways

Beside them: trace.py prints which files a chat request goes through (`python -m benchmarks.trace`), and hosts.py
computes from measured costs what several hosts serve (`python -m benchmarks.hosts`).

docs/benchmarks.md has the figures of one run and explains them.
"""
