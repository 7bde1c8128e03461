data "aws_iam_policy_document" "trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "log" {
  statement {
    sid       = "WriteItsLog"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.this.arn}:log-stream:*"] # its streams, which Lambda names
  }
}

resource "aws_iam_role" "this" {
  name               = var.name
  description        = "Ends releases that nobody runs any more"
  assume_role_policy = data.aws_iam_policy_document.trust.json
}

resource "aws_iam_role_policy" "this" {
  for_each = { log = data.aws_iam_policy_document.log.json, release = var.release_policy }

  name   = each.key
  role   = aws_iam_role.this.id
  policy = each.value
}
