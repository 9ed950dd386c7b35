// @actions/cache and @actions/artifact: what a job saves, another one loads, and a later run finds again.
import * as core from '@actions/core'
import { createHash } from 'node:crypto'
import * as fs from 'node:fs'
import { checks } from '../check.mjs'

const [stage, key] = [core.getInput('stage'), core.getInput('key')]
// Both packages are large: each stage loads what it needs.
const cache = stage === 'load' ? undefined : await import('@actions/cache')
const artifact = stage === 'again' ? undefined : await import('@actions/artifact')
const client = artifact && new artifact.DefaultArtifactClient()
const read = file => fs.readFileSync(file, 'utf8')
// Does not compress: its size is that of the cache.
const noise = Array.from({ length: 4096 }, (_, n) => createHash('sha256').update(`${n}`).digest())
const big = Buffer.concat(noise)
const paths = ['kept', 'other/file']

const restored = async (...keys) => {
  fs.rmSync('kept', { recursive: true, force: true })
  fs.rmSync('other', { recursive: true, force: true })
  const hit = await cache.restoreCache(paths, keys[0], keys.slice(1))
  const whole = () => [read('other/file'), big.equals(fs.readFileSync('kept/big'))]
  return hit === undefined ? undefined : [hit, ...whole()]
}
const found = name => [name, 'the content', true]

async function save() {
  core.info(`token: ${process.env.ACTIONS_RUNTIME_TOKEN}`)
  await checks('cache', async (same, refused) => {
    same('available', cache.isFeatureAvailable(), true)
    same('miss', await restored(`${key}-1`, `${key}-`), undefined)
    fs.mkdirSync('kept')
    fs.mkdirSync('other')
    fs.writeFileSync('kept/big', big)
    fs.writeFileSync('other/file', 'the content')
    same('save', await cache.saveCache(paths, `${key}-1`) > 0, true)
    same('saved once', await cache.saveCache(paths, `${key}-1`), -1)
    same('hit', await restored(`${key}-1`), found(`${key}-1`))
    const look = keys => cache.restoreCache(paths, `${key}-2`, keys, { lookupOnly: true })
    same('restore key', await look(['none', `${key}-`]), `${key}-1`)
    same('key alone', await look([]), undefined)
    same('other paths', await cache.restoreCache(['kept'], `${key}-1`), undefined)
    await refused('no path', () => cache.saveCache(['no/*/thing'], `${key}-3`), 'Path Validation Error')
    await refused('a comma', () => cache.restoreCache(paths, 'a,b'), 'cannot contain commas')
  })
  await checks('artifact save', async (same, refused) => {
    fs.mkdirSync('out/sub', { recursive: true })
    fs.writeFileSync('out/report.txt', 'the report')
    fs.writeFileSync('out/sub/big', big)
    const files = ['out/report.txt', 'out/sub/big']
    const report = await client.uploadArtifact('report', files, 'out', { compressionLevel: 0 })
    same('upload', [report.id > 0, report.size > big.length], [true, true])
    core.setOutput('digest', report.digest)
    core.info(`digest of report: ${report.digest}`)
    await client.uploadArtifact('dropped', ['out/report.txt'], 'out')
    await client.uploadArtifact('', ['out/report.txt'], 'out', { skipArchive: true })
    await refused('twice', () => client.uploadArtifact('report', files, 'out'), 'already exists')
    await refused('a slash', () => client.uploadArtifact('a/b', files, 'out'), 'The artifact name is not valid')
  })
}

async function load() {
  await checks('artifact load', async (same, refused) => {
    const names = async () => (await client.listArtifacts()).artifacts.map(found => found.name).sort()
    same('list', await names(), ['dropped', 'report', 'report.txt'])
    const { artifact } = await client.getArtifact('report')
    const digest = `sha256:${core.getInput('digest')}`
    same('digest', [artifact.digest, artifact.createdAt <= new Date()], [digest, true])
    const options = { path: 'got', expectedHash: digest }
    same('download', (await client.downloadArtifact(artifact.id, options)).digestMismatch, false)
    same('content', [read('got/report.txt'), big.equals(fs.readFileSync('got/sub/big'))], ['the report', true])
    const file = (await client.getArtifact('report.txt')).artifact
    const wrong = { path: 'raw', expectedHash: digest }
    same('another digest', (await client.downloadArtifact(file.id, wrong)).digestMismatch, true)
    same('a file as it is', read('raw/report.txt'), 'the report')
    const dropped = (await client.getArtifact('dropped')).artifact
    same('delete', (await client.deleteArtifact('dropped')).id, dropped.id)
    same('deleted', await names(), ['report', 'report.txt'])
    await refused('not found', () => client.getArtifact('dropped'), 'Artifact not found for name: dropped')
  })
}

async function again() {
  await checks('cache again', async same => {
    same('hit of another run', await restored(`${key}-2`, `${key}-`), found(`${key}-1`))
  })
}

await { save, load, again }[stage]()
