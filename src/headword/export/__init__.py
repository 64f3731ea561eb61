"""What leaves headword: one ONNX file, OpenVINO IR, the weights of a plain last layer, immich's folders.

`export_labels` writes a classifier made of words; `export_immich` both encoders without labels; a
`Publishable` model goes to the Hugging Face hub.

    graph.py           pictures → probabilities and embeddings, as one module
    text_graph.py      tokens → embeddings, likewise
    onnx_file.py       a module → an ONNX file, which onnxruntime must agree with
    int8.py            the same in eight bits, by a calibration folder
    last_layer.py      labels as weights of the classifier's own last layer
    formats.py         the choice among them
    publishing.py      a repository of the hub, with the card of card.py
"""

from headword.export.formats import Exportable, Exported, check_form, export_immich, export_labels

__all__ = ["Exportable", "Exported", "check_form", "export_immich", "export_labels"]
