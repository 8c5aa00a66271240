"""Pools on a Ray cluster: one actor keeps the pool, and one owns each worker process.

Ray places actors, starts them again and moves them; it never has a job, nor a reason to end one. Each rule here has its reason:

- An actor whose worker has ended for good is sent a request to leave, and leaves by `exit_actor`: Ray starts it again after any other
  end. It is never killed by its handle, which names whatever bears its id; only an actor that no machine has is.
- An actor without a request for a while checks whether it is still the one of its name: Ray gives a machine up from which it receives
  nothing, and starts its actors elsewhere, while the old ones go on.
- A worker over several machines is a placement group, whose bundles Ray reserves all at once or not at all, with an actor in each. Ray
  starts none of them again: when one ends, the group is removed with all others, and the pool requests a worker anew. Else what is left
  would keep its machines while it waits for the others.
- Actors get no keys: their arguments can be read by all who have access to the cluster.
"""
