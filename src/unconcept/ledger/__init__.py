"""Requests that come one by one, and some that are taken back: a ledger whose state is a
function of the set in force.
"""
