variable "project" {
  description = "First part of every name."
  type        = string
}

variable "account_id" {
  description = "AWS account, 12 digits."
  type        = string
}

variable "region" {
  description = "AWS region, as eu-central-1."
  type        = string
}
