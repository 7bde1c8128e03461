variable "name" {
  description = "Name of the function, as kiln-dev-slack."
  type        = string
}

variable "topic_arn" {
  description = "SNS topic whose messages go to Slack."
  type        = string
}

variable "webhook_parameter" {
  description = "Name of the SSM parameter (SecureString) that holds Slack's webhook URL; it begins with /."
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
