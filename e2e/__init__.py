"""End-to-end suites: the real server as a subprocess, used as a client would.

    pytest e2e                                 everything that this machine can run
    HOSTELRY_E2E_SEED=7 pytest e2e             the same models, prompts and words as another run
    pytest e2e/test_paris.py -k p6             one row

`harness` starts servers, builds models and has the independent reference; `paris_checks` are the rows as functions;
`liars` are fake gateways which those functions must reject. Measured numbers go to `results/`.
"""
