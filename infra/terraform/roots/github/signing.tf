# The key by which images are signed: `build` signs with it, the others read its public half. It never leaves KMS.

data "aws_iam_policy_document" "signing_key" {
  #checkov:skip=CKV_AWS_109:the account's own IAM decides: a key policy without it locks everybody out
  #checkov:skip=CKV_AWS_111:the account's own IAM decides, as above
  #checkov:skip=CKV_AWS_356:in a key's policy `*` is that key
  statement {
    sid = "IamDecides"
    actions = [
      "kms:CancelKeyDeletion",
      "kms:CreateAlias",
      "kms:DeleteAlias",
      "kms:DescribeKey",
      "kms:DisableKey",
      "kms:EnableKey",
      "kms:GetKeyPolicy",
      "kms:GetKeyRotationStatus",
      "kms:GetPublicKey",
      "kms:ListKeyPolicies",
      "kms:ListResourceTags",
      "kms:PutKeyPolicy",
      "kms:ScheduleKeyDeletion",
      "kms:Sign",
      "kms:TagResource",
      "kms:UntagResource",
      "kms:UpdateAlias",
      "kms:UpdateKeyDescription",
      "kms:Verify",
    ]
    resources = ["*"] # the key itself

    principals {
      type        = "AWS"
      identifiers = ["arn:${data.aws_partition.this.partition}:iam::${local.account_id}:root"]
    }
  }
}

resource "aws_kms_key" "signing" {
  #checkov:skip=CKV_AWS_7:KMS rotates no asymmetric keys
  count = var.create_signing_key ? 1 : 0

  description              = "Signs Kiln's images"
  key_usage                = "SIGN_VERIFY"
  customer_master_key_spec = "ECC_NIST_P256" # what cosign makes itself
  deletion_window_in_days  = 30              # until then a deletion can be taken back
  policy                   = data.aws_iam_policy_document.signing_key.json
}

resource "aws_kms_alias" "signing" {
  count = var.create_signing_key ? 1 : 0

  name          = "alias/${var.project}-signing"
  target_key_id = aws_kms_key.signing[0].key_id
}
