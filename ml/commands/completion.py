"""Bash completion of ``bazel run //ml:train``; Hydra's own completes only commands of one word."""

import os
import sys
from collections.abc import Sequence

_BASH = r"""# Completes: bazel run //ml:train [--] <TAB>
_kiln_train() {
    local line="${COMP_LINE:0:COMP_POINT}" head="" current choice
    local asked='(^|/)bazel(isk)? .*//ml:train +(-- +)?(.*)$'
    if [[ ! "$line" =~ $asked ]]; then
        # Anything else is left to the completion that was there before.
        if [[ -n "$_KILN_BEFORE" ]]; then "$_KILN_BEFORE" "$@"; fi
        return
    fi
    local arguments="${BASH_REMATCH[4]}"
    current="${arguments##*[[:space:]]}"
    # Bash replaces only what follows the last of its word breaks.
    if [[ "$COMP_WORDBREAKS" == *"="* && "$current" == *"="* ]]; then head="${current%=*}="; fi
    COMPREPLY=()
    for choice in $(COMP_LINE="train $arguments" @PROGRAM@ -sc query=bash 2>/dev/null); do
        if [[ "$choice" == "$current"* ]]; then COMPREPLY+=("${choice#"$head"}"); fi
    done
    compopt -o nospace 2>/dev/null
}
if [[ "$(complete -p bazel 2>/dev/null)" =~ -F[[:space:]]+([^[:space:]]+) ]]; then
    if [[ "${BASH_REMATCH[1]}" != _kiln_train ]]; then _KILN_BEFORE="${BASH_REMATCH[1]}"; fi
fi
complete -o default -F _kiln_train bazel bazelisk ./tools/bazel tools/bazel
"""


def answers(arguments: Sequence[str]) -> bool:
    """Prints the script that completes ``bazel run //ml:train``, if that is what was asked for.

    Without Bazel the question is left to Hydra, as are other shells and what to complete.
    """
    workspace = os.environ.get("BUILD_WORKSPACE_DIRECTORY")
    asked = len(arguments) == 2 and arguments[0] in ("-sc", "--shell-completion")
    if not (workspace and asked and arguments[1] == "install=bash"):
        return False
    program = os.path.join(workspace, "bazel-bin", "ml", "commands", "train")
    sys.stdout.write(_BASH.replace("@PROGRAM@", "'" + program.replace("'", "'\\''") + "'"))
    return True
