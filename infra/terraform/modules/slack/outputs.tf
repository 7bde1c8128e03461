output "function_name" {
  description = "Name of the function that writes to Slack."
  value       = aws_lambda_function.this.function_name
}
