"""What commits mean: refs and their moves, reachability, garbage, retention, revisions, differences. No torch."""
