reserved_concurrency = 50
log_retention_days   = 14
monthly_budget_usd   = 100
