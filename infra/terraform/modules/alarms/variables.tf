variable "name" {
  description = "First part of the alarms' names, as kiln-dev."
  type        = string
}

variable "function_name" {
  description = "Lambda function whose metrics are watched."
  type        = string
}

variable "alias_name" {
  description = "Alias that callers use; AWS/Lambda has it in the dimension Resource."
  type        = string
}

variable "sns_topic_arn" {
  description = "Topic that learns of every change of an alarm's state."
  type        = string
}
