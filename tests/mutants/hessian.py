"""run_hessian.py's wing: blocks, their tables, statistics, names, robust smoothness; and Lanczos' method below it."""

# fmt: off
# ruff: noqa: E501
MUTANTS = {
    ("hessian/tables.py", "run_hessian::test_a_row_of_blocks_has_every_field_of_the_measurement_under_its_name; "
     "run_hessian::test_rows_of_heterogeneity_leave_out_what_is_not_finite_and_take_the_unresolved_for_zero; "
     "run_hessian::test_mean_is_empty_where_a_batch_has_no_number_and_unconverged_where_one_is; "
     "run_hessian::test_the_intervals_are_drawn_from_the_seed; run_hessian"): [
        ("products=sum(row[\"products\"] for row in rows)", "products=max(row[\"products\"] for row in rows)", "products of the mean are not the sum"),
        ("mean[column] = all(row[column] for row in rows)", "mean[column] = any(row[column] for row in rows)", "one converged batch counts for all"),
        ("statistics.fmean(values)", "statistics.median_low(values)", "the mean over the batches is one of them"),
        ("None if None in values else statistics", "None if all(v is None for v in values) else statistics", "a batch that is not finite ends in a traceback"),
        ("kind=kind_of(block.name), layer=layer_of(block.name)", "kind=layer_of(block.name), layer=kind_of(block.name)", "kind and layer are swapped"),
        ("resolved(row[\"eigenvalue\"], row[\"residual\"]) for row", "row[\"eigenvalue\"] for row", "eigenvalues that are noise count in the statistics"),
        ("[row[\"numel\"] for row in rows], seed,", "[row[\"numel\"] for row in rows], 0,", "the intervals do not depend on --seed"),
    ],
    ("hessian/heterogeneity.py", "heterogeneity"): [
        ("abs(eigenvalue) <= residual", "abs(eigenvalue) <= 0.1 * residual", "noise counts as curvature"),
        ("square = norms**2", "square = norms", "the complexity is weighted by the norm, not its square"),
        ("gradient / sign if sign > 0", "sign / gradient if sign > 0", "the ratio of complexities is upside down"),
        ("lam @ size / size.sum()", "lam.mean()", "the sign complexity is not weighted by size"),
        ("gini_gradient_rms=_gini_or_nan(norms / np.sqrt(size))", "gini_gradient_rms=_gini_or_nan(norms / size)", "the norm is divided by the size, not its root"),
        ("gini_eigenvalue=_gini_or_nan(np.maximum(lam, 0))", "gini_eigenvalue=_gini_or_nan(np.abs(lam))", "negative eigenvalues count by their size"),
        ("CONFIDENCE = 0.95", "CONFIDENCE = 0.5", "intervals are those of 50 %"),
        ("np.log(a[positive]), np.log(b[positive])", "a[positive], b[positive]", "the log-log correlation takes no logarithm"),
        ("- (counts - 1) / 2", "", "equal values share their highest rank"),
        ("_pearson(_ranks(a), _ranks(b))", "_pearson(a, b)", "Spearman's correlation is Pearson's"),
        ("low, high = np.quantile", "high, low = np.quantile", "the ends of the interval are swapped"),
        ("np.random.default_rng(seed).integers", "np.random.default_rng(0).integers", "the intervals do not depend on the seed"),
        ("complexity_gradient=weighted.gradient", "complexity_gradient=weighted.sign", "complexity_gradient holds that of the sign"),
        ("np.isfinite(columns).all(axis=0)", "np.isfinite(columns).any(axis=0)", "a block that is not finite spoils all"),
        ("log_log_blocks=power.count", "log_log_blocks=rank.count", "log_log_blocks counts all blocks"),
    ],
    ("hessian/blocks.py", "hessian_blocks"): [
        ("gradient_norm = torch.linalg.vector_norm(gradient, dtype=torch.float64).item()", "gradient_norm = torch.linalg.vector_norm(gradient, dtype=torch.float64).item() / gradient.numel() ** 0.5", "the gradient's norm is divided by its size"),
        ("residual=max(extremes.residual, rounding)", "residual=extremes.residual", "noise looks like an eigenvalue"),
        ("extremes.converged and rounding <= tolerance * abs(extremes.eigenvalue)", "extremes.converged", "noise counts as converged"),
        ("tolerance=tolerance,\n", "tolerance=1e-2,\n", "--tolerance has no effect"),
    ],
    ("hessian/robust_smoothness.py", "robust_smoothness"): [
        ("STEEP = 2.0", "STEEP = 1.0", "half of the coordinates are removed"),
        ("g[:, ~removed]", "g[:, removed]", "the steep coordinates are kept, the others removed"),
        ("torch.exp(-cross_entropy) / -torch.expm1(-cross_entropy)", "torch.exp(-cross_entropy)", "the weights are not those of the Gauss-Newton matrix"),
        ("RANDOM_SHARE = 0.02", "RANDOM_SHARE = 0.2", "a fifth of the coordinates is removed at random"),
        ("eigvalsh(gram)[-1]", "eigvalsh(gram)[0]", "the smallest eigenvalue stands for the largest"),
        ("steep.double().mean().item(), random)", "drawn.double().mean().item(), random)", "the removed share is that of the control"),
    ],
    ("hessian/tensor_names.py", "heterogeneity; run_hessian::test_papers_choice_in_roberta_base_is_its_22_tensors; "
     "run_hessian::test_frozen_tensors_are_not_chosen; run_hessian::test_smaller_models_give_first_middle_and_last_layer_once"): [
        ("(\"head\", r\"(^|\\.)(lm_head|", "(\"head\", r\"(^|\\.)(", "the language head counts as other"),
        ("layers // 2, layers - 1}))\n    if config.model_type == \"roberta\"", "layers - 1}))\n    if config.model_type == \"roberta\"", "--parameters paper leaves out the middle layer"),
        ("r\"attention|attn\"", "r\"attention\"", "GPT's attention counts as other"),
        ("if p.requires_grad]", "]", "frozen tensors are measured"),
        ("re.search(pattern, name, re.IGNORECASE)", "re.search(pattern, name)", "LayerNorm counts as other"),
    ],
    ("curvature/lanczos.py", "hessian_blocks"): [
        ("MISS_CHANCE = 0.01", "MISS_CHANCE = 1e3", "a wrong eigenvalue counts as converged"),
        ("ends = [len(theta) - 1, 0]", "ends = [0, len(theta) - 1]", "the largest eigenvalue is the smallest"),
    ],
}
