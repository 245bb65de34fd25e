"""The ledger: an append-only record of requests that come one by one and can be revoked.

Its state, the combined edit, depends only on the set of requests in force.
"""
