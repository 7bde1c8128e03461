variable "project" {
  description = "First part of every name."
  type        = string
}

variable "environment" {
  description = "Whose service may be released and changed: dev, staging or prod."
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

variable "partition" {
  description = "AWS partition: aws, aws-cn or aws-us-gov."
  type        = string
}

variable "kms_key_arn" {
  description = "Customer-managed key of KMS, as the other roots have it; null: none is used."
  type        = string
  default     = null
}

variable "dns_zone_id" {
  description = "Hosted zone of Route 53 that has the service's record; null: Terraform writes none."
  type        = string
  default     = null
}
