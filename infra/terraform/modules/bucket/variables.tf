variable "name" {
  description = "Name of the bucket."
  type        = string
}

variable "kms_key_arn" {
  description = "Customer-managed key of KMS for the objects; null: S3's own keys (SSE-S3)."
  type        = string
  default     = null
}

variable "noncurrent_days" {
  description = "Days that a replaced or deleted version of an object is kept; 0: for ever."
  type        = number

  validation {
    condition     = var.noncurrent_days >= 0 && floor(var.noncurrent_days) == var.noncurrent_days
    error_message = "noncurrent_days is a whole number of days; 0 keeps replaced versions for ever."
  }
}

variable "retention_days" {
  description = "Days after which an object is deleted; 0: it is kept for ever."
  type        = number
  default     = 0

  validation {
    condition     = var.retention_days >= 0 && floor(var.retention_days) == var.retention_days
    error_message = "retention_days is a whole number of days; 0 keeps objects for ever."
  }
}

variable "access_log_bucket" {
  description = "Bucket that takes S3's server access logs; null: none are written."
  type        = string
  default     = null
}

variable "force_destroy" {
  description = "Whether `destroy` may delete a bucket that still has objects. Never in production."
  type        = bool
  default     = false
}

variable "tls_only" {
  description = "Whether the bucket refuses requests without TLS. Always in AWS; a server on loopback speaks HTTP."
  type        = bool
  default     = true
}
