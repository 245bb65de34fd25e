"""Inputs that attacks found, success rates, and what an attacker knows."""
