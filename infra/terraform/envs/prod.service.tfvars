memory_mb            = 1769
reserved_concurrency = 200
log_retention_days   = 90
throttle             = { rate = 500, burst = 1000 }
monthly_budget_usd   = 500
