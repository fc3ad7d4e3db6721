"""Live classification measured: freshness, throughput, outputs, cameras, recovery, endurance."""
