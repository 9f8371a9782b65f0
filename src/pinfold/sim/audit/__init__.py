"""An auditor beside the world: what each device acknowledged, it must still hold when it returns.

Redundancy masks a device that forgets: the others have it, repair brings it back, and no client
ever sees it. So every device of a simulated cluster is opened through `auditor.Auditor`, which
notes at the device's own boundary (`device.api`) what it was told and what it answered as durable,
compares after every opening before anybody may use the device, and compares what it reads.

What a fault takes from a device on purpose is told to the auditor (`Auditor.forgive`).
"""
