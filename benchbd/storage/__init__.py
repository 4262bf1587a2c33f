"""What lies on disk: artifacts, records, locks. Damage to one of them costs that one."""
