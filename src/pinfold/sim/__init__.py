"""The deterministic world: loop, clock, disk, net and faults. Product code never imports it."""
