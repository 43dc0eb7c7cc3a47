WITH offers AS (
SELECT
  NULLIF(`t0`.`offer_id`, '') AS `offer_id`,
  NULLIF(`t0`.`supplier`, '') AS `supplier`,
  NULLIF(`t0`.`category`, '') AS `category`,
  NULLIF(`t0`.`image_hash`, '') AS `image_hash`,
  SPLIT(
    REGEXP_REPLACE(
      REGEXP_REPLACE(LOWER(COALESCE(`t0`.`title`, '')), '[^\\p{L}\\p{N}]+', ' '),
      '^ | $',
      ''
    ),
    ' '
  ) AS `words`
FROM `catalogue` AS `t0`
), clicks AS (
SELECT
  `t8`.`user`,
  `t8`.`session`,
  `t8`.`query`,
  `t8`.`offer_id`,
  MAX(`t8`.`relevance`) AS `relevance`
FROM (
  SELECT
    `t7`.`user`,
    `t7`.`session`,
    `t7`.`query`,
    `t7`.`offer_id`,
    `t7`.`words`,
    SIZE(ARRAY_INTERSECT(ARRAY_DISTINCT(SPLIT(`t7`.`query`, ' ')), `t7`.`words`)) / SIZE(ARRAY_DISTINCT(SPLIT(`t7`.`query`, ' '))) AS `relevance`
  FROM (
    SELECT
      `t6`.`user`,
      `t6`.`session`,
      `t6`.`query`,
      `t6`.`offer_id`,
      `t3`.`words`
    FROM (
      SELECT
        *
      FROM (
        SELECT
          SHA2(CONCAT('pepper', `t0`.`user`), 256) AS `user`,
          `t0`.`session`,
          REGEXP_REPLACE(REGEXP_REPLACE(LOWER(`t0`.`query`), '[^\\p{L}\\p{N}]+', ' '), '^ | $', '') AS `query`,
          `t0`.`offer_id`
        FROM `log` AS `t0`
        WHERE
          `t0`.`clicked` AND `t0`.`user` IS NOT NULL AND `t0`.`session` IS NOT NULL
      ) AS `t4`
      WHERE
        LENGTH(`t4`.`query`) > 0
    ) AS `t6`
    INNER JOIN (
      SELECT
        `t1`.`offer_id`,
        `t1`.`words`
      FROM `offers` AS `t1`
    ) AS `t3`
      ON `t6`.`offer_id` = `t3`.`offer_id`
  ) AS `t7`
) AS `t8`
GROUP BY
  1,
  2,
  3,
  4
), robots AS (
SELECT
  `t2`.`user`,
  `t2`.`session`,
  `t2`.`query`,
  `t2`.`offer_id`,
  `t2`.`relevance`
FROM (
  SELECT
    *
  FROM (
    SELECT
      `t0`.`user`,
      `t0`.`session`,
      `t0`.`query`,
      `t0`.`offer_id`,
      `t0`.`relevance`,
      COUNT(*) OVER (
        PARTITION BY `t0`.`user`, `t0`.`session`, `t0`.`query`
        ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
      ) AS `clicks`
    FROM `clicks` AS `t0`
  ) AS `t1`
  WHERE
    `t1`.`clicks` <= 50
) AS `t2`
), support AS (
SELECT
  `t1`.`user`,
  `t1`.`session`,
  `t1`.`query`,
  `t1`.`offer_id`,
  `t1`.`relevance`
FROM `robots` AS `t1`
LEFT SEMI JOIN (
  SELECT
    *
  FROM (
    SELECT
      `t0`.`query`,
      COUNT(DISTINCT `t0`.`user`) AS `users`
    FROM `robots` AS `t0`
    GROUP BY
      1
  ) AS `t2`
  WHERE
    `t2`.`users` >= 5
) AS `t4`
  ON `t1`.`query` = `t4`.`query`
), relevance AS (
SELECT
  *
FROM `support` AS `t0`
WHERE
  `t0`.`relevance` >= 0.5
), pairs AS (
SELECT
  `t8`.`trigger_id`,
  `t8`.`offer_id`,
  `t2`.`category`,
  `t8`.`coclicks`,
  `t8`.`relevance`,
  `t2`.`category` = `t3`.`category` AS `same_category`,
  `t2`.`supplier` <> `t3`.`supplier` AS `other_supplier`,
  COALESCE(`t2`.`image_hash` = `t3`.`image_hash`, FALSE) AS `same_image`
FROM (
  SELECT
    `t6`.`trigger_id`,
    `t6`.`offer_id`,
    COUNT(*) AS `coclicks`,
    MAX(`t6`.`relevance`) AS `relevance`
  FROM (
    SELECT
      `t4`.`offer_id` AS `trigger_id`,
      `t5`.`offer_id`,
      LEAST(`t4`.`relevance`, `t5`.`relevance`) AS `relevance`
    FROM `relevance` AS `t4`
    INNER JOIN `relevance` AS `t5`
      ON `t4`.`user` = `t5`.`user`
      AND `t4`.`session` = `t5`.`session`
      AND `t4`.`query` = `t5`.`query`
      AND `t4`.`offer_id` < `t5`.`offer_id`
  ) AS `t6`
  GROUP BY
    1,
    2
) AS `t8`
INNER JOIN `offers` AS `t2`
  ON `t8`.`trigger_id` = `t2`.`offer_id`
INNER JOIN `offers` AS `t3`
  ON `t8`.`offer_id` = `t3`.`offer_id`
), category AS (
SELECT
  *
FROM `pairs` AS `t0`
WHERE
  `t0`.`same_category`
), supplier AS (
SELECT
  *
FROM `category` AS `t0`
WHERE
  `t0`.`other_supplier`
), coclicks AS (
SELECT
  *
FROM `supplier` AS `t0`
WHERE
  `t0`.`coclicks` >= 2
), duplicates AS (
SELECT
  *
FROM `coclicks` AS `t0`
WHERE
  NOT (
    `t0`.`same_image`
    AND (
      SHA2(CONCAT(CONCAT(`t0`.`trigger_id`, '|'), `t0`.`offer_id`), 256) < 'e6666666'
    )
  )
), quota AS (
SELECT
  `t1`.`trigger_id`,
  `t1`.`offer_id`,
  `t1`.`category`,
  `t1`.`coclicks`,
  `t1`.`relevance`,
  `t1`.`same_category`,
  `t1`.`other_supplier`,
  `t1`.`same_image`
FROM `duplicates` AS `t1`
LEFT SEMI JOIN (
  SELECT
    *
  FROM (
    SELECT
      `t6`.`trigger_id`,
      `t6`.`offer_id`,
      COUNT(*) AS `ends`
    FROM (
      SELECT
        *
      FROM (
        SELECT
          `t4`.`trigger_id`,
          `t4`.`offer_id`,
          `t4`.`coclicks`,
          `t4`.`relevance`,
          `t4`.`one`,
          ROW_NUMBER() OVER (
            PARTITION BY `t4`.`one`
            ORDER BY `t4`.`coclicks` DESC, `t4`.`relevance` DESC, `t4`.`trigger_id` ASC NULLS LAST, `t4`.`offer_id` ASC NULLS LAST
          ) - 1 AS `rank`
        FROM (
          SELECT
            *
          FROM (
            SELECT
              `t0`.`trigger_id`,
              `t0`.`offer_id`,
              `t0`.`coclicks`,
              `t0`.`relevance`,
              `t0`.`trigger_id` AS `one`
            FROM `duplicates` AS `t0`
          ) AS `t2`
          UNION ALL
          SELECT
            *
          FROM (
            SELECT
              `t0`.`trigger_id`,
              `t0`.`offer_id`,
              `t0`.`coclicks`,
              `t0`.`relevance`,
              `t0`.`offer_id` AS `one`
            FROM `duplicates` AS `t0`
          ) AS `t3`
        ) AS `t4`
      ) AS `t5`
      WHERE
        `t5`.`rank` < 20
    ) AS `t6`
    GROUP BY
      1,
      2
  ) AS `t7`
  WHERE
    `t7`.`ends` = 2
) AS `t9`
  ON `t1`.`trigger_id` = `t9`.`trigger_id` AND `t1`.`offer_id` = `t9`.`offer_id`
)
SELECT
  `t0`.`trigger_id`,
  `t0`.`offer_id`,
  `t0`.`category`,
  `t0`.`coclicks`,
  `t0`.`relevance`
FROM `quota` AS `t0`
ORDER BY
  `t0`.`trigger_id` ASC NULLS LAST,
  `t0`.`offer_id` ASC NULLS LAST
