reserved_concurrency = 10
log_retention_days   = 7
throttle             = { rate = 50, burst = 100 }
cors_origins         = ["http://localhost:8000"]
monthly_budget_usd   = 20
