"""Small fake gateways that the suites must reject.

Two kinds: `impostor` makes everything up and needs no server; `proxy` stands before an honest server and tells one
lie, so that nothing but the lie can give it away.
"""
