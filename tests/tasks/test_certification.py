"""What no certificate is issued for, whoever made the release."""

from types import SimpleNamespace

import pytest

from expunge.errors import CertificateRefusedError
from tasks import certification


def test_a_release_made_before_another_draw_was_counted_is_not_certified(monkeypatch):
    """Two processes at one batch: its epsilon would leave a draw out."""
    batch = SimpleNamespace(data={"release": {"draws": 1}}, draws=2, done=lambda stage: False)
    state = SimpleNamespace(batches=SimpleNamespace(get=lambda batch_id: batch))
    monkeypatch.setattr(certification, "open_state", lambda: state)
    monkeypatch.setattr(certification, "require_policy", lambda state, batch: batch)
    monkeypatch.setattr(certification, "require_dataset", lambda state, batch: None)
    with pytest.raises(CertificateRefusedError, match="expected 1 draws, got 2"):
        certification.certify.fn("b-1")
