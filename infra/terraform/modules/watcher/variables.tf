variable "name" {
  description = "Name of the function, as kiln-prod-watch."
  type        = string
}

variable "environment" {
  description = "Whose releases it looks after: dev, staging or prod."
  type        = string
}

variable "image_uri" {
  description = "Image of the release manager in ECR, by digest."
  type        = string
}

variable "outputs" {
  description = "What the release manager reads of the root `service`: infra/terraform/service.py names it."
  type        = any
}

variable "release_policy" {
  description = "What a release may do: JSON of the module `policies`."
  type        = string
}

variable "log_retention_days" {
  description = "Days that its log is kept."
  type        = number
}

variable "kms_key_arn" {
  description = "Customer-managed key of KMS for its log and variables; null: AWS's own keys."
  type        = string
  default     = null
}
