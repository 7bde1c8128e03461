output "function_name" {
  description = "Name of the function that looks after releases."
  value       = aws_lambda_function.this.function_name
}
