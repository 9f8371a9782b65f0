"""The replicated row log: groups of devices that agree on every change of their rows.

A *group* is a partition of the metadata ring. Its members (3 or 5 devices) keep one log of entries
and, behind it, the rows those entries wrote. The protocol is Viewstamped Replication in the form
that Raft made common: an entry keeps the view it was created in, logs are compared by (view of the
last entry, op), and a primary counts towards the commit point only entries of its own view. What
differs from Raft is that a view belongs to a device from the start (its number says which), so a
new primary may have to fetch the best log of its majority before it leads.

From the bottom up:

- `configuration` says who the members are, how that changes, and why nothing is lost by it;
  `changing` decides the next step of a change; `views` numbers the views.
- `messages` are what members say to each other, `wire` is how that looks in frames.
- `state` is one member's log and how far it is durable and applied. Three roles act on it:
  `following`, `election` (the primary-elect collects votes and the best log) and `leading`.
  `copying` brings a member that is behind the log back. `replica` holds them together.
  All of this is synchronous and knows neither clock nor network.
- `ledger` evaluates changes in log order and `results` remembers what became of them; `walltime` is
  the time that their stamps tell; `scan` makes pages of rows; `entries` is the format.
- `serving` queues the changes of one led group and answers them once committed; `confirm` proves
  that reads are not stale; `liveness` says which nodes are believed alive.
- `binding` (a device) and `service` (a node) tie these to the device's stores and to rpc; `frees`
  gives back blobs that no row names any more; `client` is `Rows` for everybody else.
"""
