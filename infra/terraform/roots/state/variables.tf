variable "kms_key_arn" {
  description = "Customer-managed key of KMS for the state; null: S3's own keys."
  type        = string
  default     = null
}

variable "create_key" {
  description = "Whether to make such a key, a dollar a month, for the state and all other roots."
  type        = bool
  default     = false

  validation {
    condition     = !(var.create_key && var.kms_key_arn != null)
    error_message = "create_key makes a key, kms_key_arn names another: choose one."
  }
}

variable "noncurrent_days" {
  description = "Days that replaced versions of the state are kept."
  type        = number
  default     = 90
}

variable "access_log_bucket" {
  description = "Bucket that takes S3's server access logs; null: none are written."
  type        = string
  default     = null
}

variable "tls_only" {
  description = "Whether buckets refuse requests without TLS. Always in AWS; a server on loopback speaks HTTP."
  type        = bool
  default     = true
}
