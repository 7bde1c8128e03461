variable "repository" {
  description = "GitHub repository whose workflows may sign in, as its tokens name it: owner@ID/name@ID where it was made, renamed or moved since July 2026 or has opted in to immutable subjects, else owner/name."
  type        = string

  validation {
    condition     = can(regex("^([A-Za-z0-9-]+/[A-Za-z0-9._-]+|[A-Za-z0-9-]+@[0-9]+/[A-Za-z0-9._-]+@[0-9]+)$", var.repository))
    error_message = "repository is owner/name or owner@ID/name@ID, with no * and no URL."
  }
}

variable "environments" {
  description = "Those of environments.tf.json that this account serves; null: all. Protect them on GitHub by reviewers and by the tags they may be used from."
  type        = set(string)
  default     = null

  validation {
    condition     = var.environments == null || try(length(setsubtract(var.environments, keys(local.environments))) == 0, false)
    error_message = "environments are of ${join(", ", keys(local.environments))}."
  }
}

variable "signing_key_arn" {
  description = "Key of KMS by which images are signed, the variable SIGNING_KEY of the workflows; null: no role may use a key."
  type        = string
  default     = null

  validation {
    condition     = can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", coalesce(var.signing_key_arn, "arn:aws:kms:-:000000000000:key/-")))
    error_message = "signing_key_arn is the ARN of a key, not of an alias."
  }
}

variable "create_signing_key" {
  description = "Whether to make that key in KMS, with the alias PROJECT-signing, instead of naming one."
  type        = bool
  default     = false

  validation {
    condition     = !(var.create_signing_key && var.signing_key_arn != null)
    error_message = "create_signing_key makes a key, signing_key_arn names another: choose one."
  }
}

variable "kms_key_arn" {
  description = "Customer-managed key of the other roots, which the roles then may use; null: none."
  type        = string
  default     = null

  validation {
    condition     = can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$", coalesce(var.kms_key_arn, "arn:aws:kms:-:000000000000:key/-")))
    error_message = "kms_key_arn is the ARN of a key, not of an alias."
  }
}

variable "dns_zone_id" {
  description = "Hosted zone of Route 53 that the root `service` writes its record to, as in `domain.zone_id`; null: none."
  type        = string
  default     = null

  validation {
    condition     = can(regex("^Z[A-Z0-9]+$", coalesce(var.dns_zone_id, "Z0")))
    error_message = "dns_zone_id is the id of a hosted zone, as Z0123456789ABC."
  }
}

variable "predictions" {
  description = "The object that the workflow `drift` reads, as its variable PREDICTIONS: s3://bucket/key; null: none."
  type        = string
  default     = null

  validation {
    condition     = can(regex("^s3://[a-z0-9.-]+/[^*?]+$", coalesce(var.predictions, "s3://-/-")))
    error_message = "predictions is s3://bucket/key, with no * and no ?."
  }
}

variable "retraining" {
  description = "What the workflow `retrain` reads and writes, as its variables CAPTURES and REGISTRY: s3://bucket or s3://bucket/prefix each; null: none."
  type        = object({ captures = string, registry = string })
  default     = null

  validation {
    condition     = var.retraining == null ? true : alltrue([for url in values(var.retraining) : can(regex("^s3://[a-z0-9.-]+(/[^*?]+)?$", url))])
    error_message = "retraining.captures and .registry are s3://bucket or s3://bucket/prefix, with no * and no ?."
  }
}

variable "create_provider" {
  description = "Whether to make the account's OIDC provider for GitHub; false where another project has made it."
  type        = bool
  default     = true
}
