"""The benchmark of `make bench`: it measures the gateway as shipped and other servers in one run, and reports ratios.

    __main__.py    the command            stage.py      the processes of a run  report.py   table and targets
    cases/         the measurements       gateways.py   the gateway             chart.py    the plot
    results.py     the numbers            peers.py      the servers to compare with, also proxies.py
    native.py      compiles and runs native/upstream.c (the provider) and native/load.c (the callers)
    machine.py     cores, CPU time and memory      interpreters.py   which Python runs the gateways

In addition, trace.py prints which files a chat request goes through (`python -m benchmarks.trace`), and hosts.py
computes the throughput of several hosts from measured costs (`python -m benchmarks.hosts`).

docs/benchmarks.md has the figures of one run and explains them.
"""
