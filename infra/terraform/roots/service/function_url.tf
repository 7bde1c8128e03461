# A URL of the alias, for callers with AWS credentials. Since October 2025 a caller needs both lambda:InvokeFunctionUrl and
# lambda:InvokeFunction: https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html

resource "aws_lambda_function_url" "live" {
  for_each = var.function_url ? { this = true } : {}

  function_name      = aws_lambda_function.this.function_name
  qualifier          = aws_lambda_alias.live.name
  authorization_type = "AWS_IAM"
}

# For callers of this account: attach it to their role.
data "aws_iam_policy_document" "invoke" {
  statement {
    sid       = "CallTheUrl"
    actions   = ["lambda:InvokeFunctionUrl"]
    resources = [aws_lambda_alias.live.arn]

    condition {
      test     = "StringEquals"
      variable = "lambda:FunctionUrlAuthType"
      values   = ["AWS_IAM"]
    }
  }

  statement {
    sid       = "ByItsUrlAlone"
    actions   = ["lambda:InvokeFunction"]
    resources = [aws_lambda_alias.live.arn]

    condition {
      test     = "Bool"
      variable = "lambda:InvokedViaFunctionUrl"
      values   = ["true"]
    }
  }
}

resource "aws_iam_policy" "invoke" {
  for_each = var.function_url ? { this = true } : {}

  name        = "${local.name}-invoke"
  description = "Call ${local.name} by its function URL"
  policy      = data.aws_iam_policy_document.invoke.json
}

# For callers of other accounts, who need the function's word too.
resource "aws_lambda_permission" "function_url" {
  for_each = var.function_url ? toset(var.function_url_callers) : toset([])

  statement_id           = "url-${substr(sha256(each.key), 0, 12)}"
  action                 = "lambda:InvokeFunctionUrl"
  function_name          = aws_lambda_function.this.function_name
  qualifier              = aws_lambda_alias.live.name
  principal              = each.key
  function_url_auth_type = "AWS_IAM"
}

# Provider 5.100 has no `invoked_via_function_url` (6.x has): the callers named here may also call Invoke directly.
resource "aws_lambda_permission" "function_url_invoke" {
  for_each = var.function_url ? toset(var.function_url_callers) : toset([])

  statement_id  = "invoke-${substr(sha256(each.key), 0, 12)}"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.this.function_name
  qualifier     = aws_lambda_alias.live.name
  principal     = each.key
}
