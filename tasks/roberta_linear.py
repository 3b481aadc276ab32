"""RoBERTa with a linear classifier on its first token, as in Tomihari & Sato; transformers' own head has two layers.

Imports transformers, so it is imported where it is needed."""

from torch import Tensor, nn
from transformers import RobertaForSequenceClassification, RobertaPreLayerNormForSequenceClassification


class LinearHead(nn.Module):
    """Dropout and one linear layer on the first token, [B, T, d] -> [B, labels]."""

    def __init__(self, config):
        super().__init__()
        dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, features: Tensor, **_) -> Tensor:
        return self.out_proj(self.dropout(features[:, 0]))


class RobertaWithLinearHead(RobertaForSequenceClassification):
    def __init__(self, config):
        super().__init__(config)
        self.classifier = LinearHead(config)
        self.post_init()


class PreNormRobertaWithLinearHead(RobertaPreLayerNormForSequenceClassification):
    """The norms before attention and MLP instead of after them."""

    def __init__(self, config):
        super().__init__(config)
        self.classifier = LinearHead(config)
        self.post_init()


LINEAR_HEADS = {"roberta": RobertaWithLinearHead, "roberta-prelayernorm": PreNormRobertaWithLinearHead}
