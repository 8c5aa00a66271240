"""The rules of scheduling: the order of what waits, which worker takes what, predicted costs, shares of tenants."""
