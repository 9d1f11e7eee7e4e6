"""A shipped model that predicts in milliseconds: the settings that tests of prediction share."""

TINY = {
    'model.neck.out_channels': 32,
    'model.mask_neck.in_channels': 32,
    'model.mask_neck.feat_channels': 32,
    'model.mask_neck.out_channels': 32,
    'model.mask_head.in_channels': 32,
    'model.mask_head.feat_channels': 32,
    'model.mask_head.num_grids': [8, 6, 5, 4, 3],
    'model.test_cfg.max_per_img': 5,
    'test_dataloader.dataset.pipeline.2.scale': (96, 64),
}
