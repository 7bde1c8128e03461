"""The page that DVC's plots are drawn in."""

import re

from ml.pipeline.plots_page import page


def test_the_page_carries_its_libraries_and_asks_nobody() -> None:
    text = page(["var vega = 1;", "var b = '</script>';", "var c;"])
    assert "var vega = 1;" in text
    assert text.count("</script>") == 3  # a library cannot end its own element
    assert not re.search(r"(src|href)=", text)
    assert "{plot_divs}" in text
    assert "{scripts}" not in text


def test_without_libraries_the_page_leaves_their_place_to_dvc() -> None:
    assert "{scripts}" in page(["", "", ""])
