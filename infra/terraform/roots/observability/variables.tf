variable "enabled" {
  description = "Whether anything of this is made. Off, the service's metrics are in CloudWatch alone (embedded metric format)."
  type        = bool
  default     = false
}

variable "vpc_id" {
  description = "VPC that collector and Grafana are put into; null if switched off."
  type        = string
  default     = null

  validation {
    condition     = !var.enabled || can(regex("^vpc-", var.vpc_id))
    error_message = "vpc_id is a VPC's id, as vpc-0a1b…; it is needed because enabled is true."
  }
}

variable "subnet_ids" {
  description = "Private subnets of the VPC, with a way to AWS's APIs and to the images' registries (NAT or endpoints)."
  type        = list(string)
  default     = []

  validation {
    condition     = !var.enabled || length(var.subnet_ids) > 0
    error_message = "subnet_ids has at least one subnet, because enabled is true."
  }
}

variable "client_cidrs" {
  description = "IPv4 ranges that may reach the collector and Grafana, as 10.0.0.0/16: the function's subnets, the VPN."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for cidr in var.client_cidrs : can(cidrhost(cidr, 0)) && cidr != "0.0.0.0/0"])
    error_message = "client_cidrs are IPv4 ranges, as 10.0.0.0/16, and not the whole internet."
  }
}

variable "collector_image" {
  description = "Image of the AWS Distro for OpenTelemetry Collector, by version or digest."
  type        = string
  default     = "public.ecr.aws/aws-observability/aws-otel-collector:v0.43.1"

  validation {
    condition     = can(regex("(:v?[0-9][^/]*|@sha256:[0-9a-f]{64})$", var.collector_image))
    error_message = "collector_image has a version or a digest, not latest."
  }
}

variable "grafana_image" {
  description = "Image of Grafana, by version or digest."
  type        = string
  default     = "grafana/grafana:12.1.0"

  validation {
    condition     = can(regex("(:v?[0-9][^/]*|@sha256:[0-9a-f]{64})$", var.grafana_image))
    error_message = "grafana_image has a version or a digest, not latest."
  }
}

variable "grafana_password_parameter" {
  description = "Name of the SSM parameter (SecureString) with the password of Grafana's admin. A person writes it; Terraform never reads it."
  type        = string
  default     = "/kiln/grafana-password"

  validation {
    condition     = can(regex("^/[A-Za-z0-9/_.-]+$", var.grafana_password_parameter))
    error_message = "grafana_password_parameter is a parameter's name that begins with /, not the password itself."
  }
}

variable "alert_topic_arn" {
  description = "SNS topic that managed Prometheus' alerts go to, as the root `service` has it (sns_topic_arn); null: they are shown, and nobody is told."
  type        = string
  default     = null

  validation {
    condition     = var.alert_topic_arn == null || can(regex("^arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]+$", var.alert_topic_arn))
    error_message = "alert_topic_arn is the ARN of an SNS topic, as `sns_topic_arn` of the root service."
  }
}

variable "log_retention_days" {
  description = "Days that logs of collector and Grafana are kept."
  type        = number
  default     = 14
}
