# --- The function ----------------------------------------------------------------------------------

variable "image_uri" {
  description = "Image of the service in ECR, by digest: 123456789012.dkr.ecr.eu-central-1.amazonaws.com/kiln@sha256:…"
  type        = string

  validation {
    condition     = can(regex("^[^@:]+(:[0-9]+)?/[^@:]+@sha256:[0-9a-f]{64}$", var.image_uri))
    error_message = "image_uri is HOST/REPOSITORY@sha256:<64 digits>; a tag can be moved, a digest cannot. `bazel run //serve:push_image` prints it."
  }
}

variable "memory_mb" {
  description = "Memory of a function instance in MiB; CPU time grows with it, 1769 MiB are one whole core."
  type        = number
  default     = 1769

  validation {
    condition     = var.memory_mb >= 128 && var.memory_mb <= 10240 && floor(var.memory_mb) == var.memory_mb
    error_message = "memory_mb is a whole number from 128 to 10240."
  }
}

variable "timeout_s" {
  description = "Seconds after which Lambda ends a call. The API in front waits 29 s at most."
  type        = number
  default     = 15

  validation {
    condition     = var.timeout_s >= 1 && var.timeout_s <= 29 && floor(var.timeout_s) == var.timeout_s
    error_message = "timeout_s is a whole number from 1 to 29: API Gateway gives up before 30 s."
  }
}

variable "reserved_concurrency" {
  description = "Calls at once that the function may have, and that are kept for it; -1: what the account has left."
  type        = number
  default     = 100

  validation {
    condition     = var.reserved_concurrency >= -1 && floor(var.reserved_concurrency) == var.reserved_concurrency
    error_message = "reserved_concurrency is a whole number of calls, or -1 for no reservation; 0 stops the function."
  }
}

variable "snap_start" {
  description = "Whether published versions start from a snapshot of a warm process."
  type        = bool
  default     = false
}

variable "tracing" {
  description = "Whether X-Ray samples calls (Active), or follows its caller alone (PassThrough)."
  type        = bool
  default     = true
}

variable "log_retention_days" {
  description = "Days that logs of the function and of the API are kept."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days is one of the numbers that CloudWatch Logs knows: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, …"
  }
}

variable "function_environment" {
  description = "Variables of the function's process: KILN_* (serve/settings.py) and OTEL_*. No secrets: whoever may read the function reads them."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.function_environment) : can(regex("^(KILN|OTEL)_[A-Z0-9_]+$", name))])
    error_message = "function_environment has names that begin with KILN_ or OTEL_."
  }
}

variable "vpc" {
  description = "Subnets and security groups that the function is put into, to reach an OTLP collector there. null: no VPC, which starts faster."
  type        = object({ subnet_ids = list(string), security_group_ids = list(string) })
  default     = null

  validation {
    condition     = var.vpc == null ? true : length(var.vpc.subnet_ids) > 0 && length(var.vpc.security_group_ids) > 0
    error_message = "vpc has at least one subnet and one security group."
  }
}

variable "kms_key_arn" {
  description = "Customer-managed key of KMS for logs, variables, queue and topic; null: AWS's own keys. Its policy must let logs, sns, sqs and cloudwatch use it."
  type        = string
  default     = null
}

variable "failure_queue" {
  description = "Whether asynchronous calls that failed to the end are kept in a queue (dead letters). The provider waits 25 s for a new queue to settle and 45 s for a deleted one."
  type        = bool
  default     = true
}

variable "asynchronous_retries" {
  description = "Further tries of an asynchronous call (shadow traffic) that failed, before it goes to the queue."
  type        = number
  default     = 0

  validation {
    condition     = contains([0, 1, 2], var.asynchronous_retries)
    error_message = "asynchronous_retries is 0, 1 or 2."
  }
}

# --- What it keeps of its answers ------------------------------------------------------------------

variable "capture" {
  description = "Whether the service keeps a sample of its answers, with the pixels behind them, in a bucket of its own (docs/guides/capture.md, docs/threat-model.md)."
  type        = bool
  default     = false
}

variable "capture_share" {
  description = "Chance of a sure answer to be kept."
  type        = number
  default     = 0.1

  validation {
    condition     = var.capture_share > 0 && var.capture_share <= 1
    error_message = "capture_share is above 0, at most 1: what has no chance to be kept biases every estimate."
  }
}

variable "capture_unsure" {
  description = "Chance of an answer between two classes to be kept; of others, in between."
  type        = number
  default     = 0.5

  validation {
    condition     = var.capture_unsure > 0 && var.capture_unsure <= 1
    error_message = "capture_unsure is above 0, at most 1."
  }
}

variable "capture_retention_days" {
  description = "Days after which captured answers and their labels are deleted."
  type        = number
  default     = 30

  validation {
    condition     = var.capture_retention_days >= 1 && floor(var.capture_retention_days) == var.capture_retention_days
    error_message = "capture_retention_days is a whole number of days, at least 1: nothing is kept for ever."
  }
}

variable "capture_force_destroy" {
  description = "Whether `destroy`, or switching capture off, may delete captured answers that are still there."
  type        = bool
  default     = false
}

variable "tls_only" {
  description = "Whether the bucket refuses requests without TLS. Always in AWS; a server on loopback speaks HTTP."
  type        = bool
  default     = true
}

# --- In front of it --------------------------------------------------------------------------------

variable "api" {
  description = "Whether there is an HTTP API of API Gateway in front."
  type        = bool
  default     = true
}

variable "cors_origins" {
  description = "Origins that a browser may call from, as https://example.com; \"*\" for any; none: no cross-origin calls."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for origin in var.cors_origins : can(regex("^(\\*|https?://[^/]+)$", origin))])
    error_message = "cors_origins are origins without a path, as https://example.com, or \"*\"."
  }
}

variable "throttle" {
  description = "Requests a second that the API lets through on average (rate), and in a moment (burst)."
  type        = object({ rate = number, burst = number })
  default     = { rate = 200, burst = 400 }

  validation {
    condition     = var.throttle.rate > 0 && var.throttle.burst >= 1
    error_message = "throttle has a rate above 0 and a burst of 1 or more; API Gateway reads 0 as: refuse everything."
  }
}

variable "jwt" {
  description = "Who may call: tokens of this issuer for one of these audiences, with one of these scopes if any are named. null: anybody (the service has API keys of its own: KILN_API_KEYS)."
  type        = object({ issuer = string, audience = list(string), scopes = optional(list(string), []) })
  default     = null

  validation {
    condition     = var.jwt == null ? true : can(regex("^https://", var.jwt.issuer)) && length(var.jwt.audience) > 0
    error_message = "jwt has an issuer that begins with https:// and at least one audience."
  }
}

variable "domain" {
  description = "Name of our own for the API: a certificate of ACM in this region, and the hosted zone of Route 53 that gets the record (null: made elsewhere). null: API Gateway's own name."
  type        = object({ name = string, certificate_arn = string, zone_id = optional(string) })
  default     = null

  validation {
    condition     = var.domain == null ? true : can(regex("^arn:aws[a-z-]*:acm:", var.domain.certificate_arn))
    error_message = "domain.certificate_arn is the ARN of a certificate of ACM."
  }
}

variable "function_url" {
  description = "Whether the alias has a URL of its own, for callers with AWS credentials (AWS_IAM)."
  type        = bool
  default     = true
}

variable "function_url_callers" {
  description = "ARNs of roles or users of other accounts that may call the function URL; callers of this account get the policy `invoke` instead."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for caller in var.function_url_callers : can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:(role|user|root)", caller))])
    error_message = "function_url_callers are ARNs of IAM roles, users or accounts; nobody is let in by \"*\"."
  }
}

# --- Who ends a release whose run is gone -----------------------------------------------------------

variable "watcher_image_uri" {
  description = "Image of the release manager in ECR by digest, as `bazel run //infra:push_watch_image` pushes it: it looks every minute. null: nobody does."
  type        = string
  default     = null

  validation {
    condition     = can(regex("^[^@:]+(:[0-9]+)?/[^@:]+@sha256:[0-9a-f]{64}$", coalesce(var.watcher_image_uri, "-/-@sha256:${join("", [for n in range(64) : "0"])}")))
    error_message = "watcher_image_uri is HOST/REPOSITORY@sha256:<64 digits>."
  }
}

# --- Who is told -----------------------------------------------------------------------------------

variable "alarm_emails" {
  description = "Addresses that get every alarm; each must confirm a message from AWS once."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for address in var.alarm_emails : can(regex("^[^@ ]+@[^@ ]+$", address))])
    error_message = "alarm_emails are e-mail addresses."
  }
}

variable "slack_webhook_parameter" {
  description = "Name of the SSM parameter (SecureString) that holds Slack's webhook URL, as /kiln/slack-webhook; null: no Slack. Terraform never reads it."
  type        = string
  default     = null

  validation {
    condition     = var.slack_webhook_parameter == null ? true : can(regex("^/[A-Za-z0-9/_.-]+$", var.slack_webhook_parameter))
    error_message = "slack_webhook_parameter is a parameter's name that begins with /, not the webhook itself."
  }
}

variable "burn_rate_alarms" {
  description = "Whether composite alarms watch the error budgets of the service-level objectives. moto has none."
  type        = bool
  default     = true
}

variable "monthly_budget_usd" {
  description = "US dollars a month; a message at 80 % spent and at 100 % forecast. 0: no budget."
  type        = number
  default     = 0

  validation {
    condition     = var.monthly_budget_usd >= 0
    error_message = "monthly_budget_usd is a number of US dollars; 0 makes no budget."
  }
}
