"""The benchmark of `make bench`: the gateway as it is shipped beside others, in one run, as ratios.

    __main__.py    the command            stage.py      what runs during it     report.py   table and targets
    cases/         what is measured       gateways.py   the gateway             chart.py    the plot
    results.py     the numbers            peers.py      whom it is compared with
    native.py      compiles and runs native/upstream.c (the provider) and native/load.c (the callers)
    machine.py     which process runs on which core, and what it used

Beside them: trace.py prints which files a chat request goes through (`python -m benchmarks.trace`).

docs/benchmarks.md has the figures of one run and says how to read them.
"""
