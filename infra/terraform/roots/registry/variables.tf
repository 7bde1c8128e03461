variable "images_kept" {
  description = "Releases whose images ECR keeps, the service's and the watcher's, whatever their tags, if each is signed once. More than the versions that anybody rolls back to: a function whose image is gone cannot start."
  type        = number
  default     = 200

  validation {
    condition     = var.images_kept >= 20 && floor(var.images_kept) == var.images_kept
    error_message = "images_kept is a whole number of releases, at least 20."
  }
}

variable "kms_key_arn" {
  description = "Customer-managed key of KMS for images and objects; null: AES-256 with AWS's own keys."
  type        = string
  default     = null
}

variable "access_log_bucket" {
  description = "Bucket that takes S3's server access logs; null: none are written."
  type        = string
  default     = null
}

variable "force_destroy" {
  description = "Whether `destroy` may delete a repository with images and buckets with objects. For accounts to play in alone."
  type        = bool
  default     = false
}

variable "tls_only" {
  description = "Whether buckets refuse requests without TLS. Always in AWS; a server on loopback speaks HTTP."
  type        = bool
  default     = true
}
