"""Power fails: what was written and what was synced is recorded, and disks are made as they may be found afterwards."""
