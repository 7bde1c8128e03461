variable "project" {
  description = "First part of every name in AWS; 2 to 16 lower-case letters, digits and dashes."
  type        = string
  default     = "kiln"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,14}[a-z0-9]$", var.project))
    error_message = "project is 2 to 16 lower-case letters, digits and dashes, and begins with a letter."
  }
}

variable "environment" {
  description = "What this is for: account (shared by all), dev, staging or prod; part of names and of the tag Environment."
  type        = string

  validation {
    condition     = contains(["account", "dev", "staging", "prod"], var.environment)
    error_message = "environment is account, dev, staging or prod; it comes from envs/*.tfvars."
  }
}

variable "region" {
  description = "AWS region of everything here, as eu-central-1."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region is the code of an AWS region, as eu-central-1."
  }
}

variable "tags" {
  description = "Further tags of every resource, beside Project, Environment, Root and ManagedBy."
  type        = map(string)
  default     = {}
}

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
