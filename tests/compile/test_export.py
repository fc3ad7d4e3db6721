"""Export to one multi-exit ONNX graph."""

import os

from compile.export import export_onnx
from tests.support.commands import ROOT
from tests.support.networks import INPUT, NETWORKS, seeded_network


def test_an_exported_graph_holds_no_path_of_this_machine() -> None:
    content = export_onnx(seeded_network(NETWORKS["tiny cnn"]), INPUT).model.SerializeToString()
    assert str(ROOT).encode() not in content
    assert os.path.dirname(os.__file__).encode() not in content
