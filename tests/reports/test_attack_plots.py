"""Plots of attacks: drawn from plain numbers, and the words say the same."""

from expunge.reports.attack_plots import difference_plot, difference_words, roc_plot, roc_words

PNG = b"\x89PNG"


def test_curves_are_drawn_from_zero_on_logarithmic_axes_and_put_into_words():
    curves = {name: ((0.0, 0.001, 1.0), (0.0, 0.5, 1.0)) for name in "abcdefgh"}
    drawn = roc_plot(curves)
    assert drawn.startswith(PNG)
    assert drawn == roc_plot(curves)
    assert drawn != roc_plot({"a": ((0.0, 1.0), (0.0, 1.0))})
    assert roc_words({"lira": (0.75, 0.7, 0.8)}).endswith("lira 0.750 (0.700 to 0.800).")


def test_differences_are_drawn_with_their_intervals():
    points = {"convex": [(1, 1.0, 0.4, 1.0), (100, 0.6, 0.5, 0.7)]}
    assert difference_plot(points).startswith(PNG)
    assert "0.600 (0.500 to 0.700) at 100" in difference_words(points)
