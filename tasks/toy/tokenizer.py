"""Vocabularies learned from a task's own texts, as Hugging Face tokenizers."""

import io
import unicodedata
from collections.abc import Iterable

PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"  # ids 0, 1, 2, as in T5


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = 2_000):
    """A unigram tokenizer with at most `vocabulary_size` pieces (fewer where the texts do not hold as many).

    It normalizes to NFKC, splits on white space and ends every text with </s>. The same texts give the same
    pieces. Returns a `transformers.PreTrainedTokenizerFast`.
    """
    # Imported here, so that `import tasks` stays quick.
    import sentencepiece
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    texts = [unicodedata.normalize("NFKC", text) for text in texts]
    # Sentencepiece only considers strings found in two different words. So a word without relatives would be split
    # however frequent it is ("tran s late"). Each word once more, with a full stop, makes all of them candidates.
    relatives = sorted({f"{word}." for text in texts for word in text.split()})
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts + relatives),
        model_writer=model,
        model_type="unigram",
        vocab_size=vocabulary_size,
        hard_vocab_limit=False,
        max_sentence_length=1_000_000,
        normalization_rule_name="identity",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece=PAD,
        eos_piece=EOS,
        unk_piece=UNKNOWN,
        num_threads=1,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    tokenizer = Tokenizer(models.Unigram([(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(len(pieces))], 2))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN)


def train_byte_tokenizer(texts: Iterable[str], max_length: int, framed: bool = True, vocabulary_size: int = 2_000):
    """A byte-level pair encoding as RoBERTa and the GPT models have: no text is unknown to it, white space included.

    Ids 0 to 4 are <s>, <pad>, </s>, <unk>, <mask>. With `framed` a text becomes <s> text </s> and a pair
    <s> one </s></s> two </s>; without, nothing is added. The same texts give the same pieces.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = dict(bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>", mask_token="<mask>")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size, special_tokens=list(special.values()), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    if framed:
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=names, model_max_length=max_length, **special
    )
